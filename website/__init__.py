"""The documentation as a site: `make docs`, or `python -m website`, writes it into `site/`.

Pages are the Markdown files of the repository, which GitHub shows as they are, and what the code
says of itself: methods, parameters, commands and the Python API. Nothing is written twice.
"""
