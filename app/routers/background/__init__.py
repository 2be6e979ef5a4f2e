"""Background work

Work that outlives the request: after the answer, beside it, and across a restart.
"""
