"""The hour's recipe on the same data: what `laptop.py` measures, of `recipes/laptop-hour.toml`."""

from laptop import measure

if __name__ == "__main__":
    measure("laptop-hour.toml")
