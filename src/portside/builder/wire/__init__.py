"""BuildKit's gRPC services: calls of its clients, translated into the builder's values and back.

::

    /grpc, h2c ──► grpc_transport ──► Control, LLBBridge ──► BuildService (plan, solve, export)
    /session   ──► ClientSession ──► the client's files, secrets, agents, credentials

Only translation lives here. The messages are in :mod:`.proto`, one file for each published
interface. Nothing of this is imported before the first such connection.
"""
