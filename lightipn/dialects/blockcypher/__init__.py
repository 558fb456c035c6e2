"""The dialect of BlockCypher's API: signed webhooks of six kinds, and the read calls that its clients make.

Hooks, wallets and questions enter; transactions and blocks as JSON leave, each signed, and tried until a 2xx. What a
webhook says never changes once it was tried. Fields that a light client cannot know are left out, never guessed.
Laws: a hook is never deleted for its receiver's failures; a webhook of the real BlockCypher is a hint, not evidence.
Source: the service's documentation, and what its public clients send.
"""
