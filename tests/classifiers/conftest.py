"""Finished runs to train on: those that the curation stages are tested on."""

from data.conftest import document, documents_run, rows_of, run_stage  # noqa: F401
