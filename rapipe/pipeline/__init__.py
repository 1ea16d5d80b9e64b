"""One verb a file: each reads artefacts, calls the library, and writes artefacts."""
