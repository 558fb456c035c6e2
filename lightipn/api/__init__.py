"""The ASGI frame every route stands on: keys and owners, bodies and forms, errors, health, the server itself.

Requests enter, already checked parameters and owners reach the routes; JSON errors of one shape leave. It never names a
dialect: ``app`` hands the routes to it. Law: whatever a caller sends, the answer is an error of ours and no 500.
"""
