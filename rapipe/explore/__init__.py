"""The explorer: ask a classifier about an image, and see the answer in a browser.

It reads what a pipeline has made, and writes nothing.
"""
