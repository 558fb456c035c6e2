"""Random histories with lying servers, compared with the truth: ``python -m tests.adversary.hunt`` runs thousands."""
