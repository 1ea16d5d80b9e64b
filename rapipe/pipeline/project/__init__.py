"""A project: a folder with params.yaml and dvc.yaml that the installed package works on.

`files/` has what a project gets. Its links lead to files at the top of the repository, which wheels
hold as copies.
"""
