"""Outbox to receivers: takes messages that are due, sends them, records what came back.

``dispatcher`` decides how many and to whom at a time, ``sender`` makes one attempt and never raises for a bad receiver,
``guard`` lets connections go to public addresses only, and only to the address that it checked; or through a proxy.
Law: nothing is sent before the attempt is on disk. Rejected: rewriting the URL to the checked IP, because httpx then
shares connections between hosts whose certificates were checked for another name.
"""
