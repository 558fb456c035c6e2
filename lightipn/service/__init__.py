"""Everything a caller can ask, cut by subject; no HTTP in it.

Questions and changes of routes and commands enter, values leave; ``desk`` puts the parts together.
Laws: a change is a row and a doorbell, so the service never calls the tracker; every part stands on
``ground``, and knows no other, but for the rule of what an owner may be called, and that keys are scanned before
``supplying`` gives addresses away.
"""
