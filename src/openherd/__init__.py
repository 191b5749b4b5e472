"""openherd: the system of "The Llama 3 Herd of Models" as one piece of working, open software."""

__version__ = "0.1.0"
