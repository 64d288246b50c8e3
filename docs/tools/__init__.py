"""What makes the book of the sources in docs/, the executed notebooks and the library: `python -m docs.tools.build`."""
