"""One folder a dialect: the API of an existing system, spoken so that its shops change a host name and go on.

``policy`` and ``wire`` are pure; ``routes`` is path → wire → service → wire. A dialect never imports another one, and
touches neither SQL nor the chain. Deleting a folder and its tests leaves everything else working.
"""
