"""`pacsor setup`: the dialogue that writes a site's settings.

The core (products, questions, pages, batch) is pure: values in, values out. Around it are a thin
dialogue, two screens (a terminal's and plain lines) and the files.
"""
