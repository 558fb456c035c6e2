"""The command line: one file a command group; each parses, calls the service, prints, and sets the exit code.

Exit codes: 0 done, 1 failed, 2 bad configuration or usage. A change goes through the database, so it works whether or
not the service runs; a running one acts on it within two seconds.
"""
