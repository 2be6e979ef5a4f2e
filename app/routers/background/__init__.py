"""Background work

Work that outlives the request: after the answer, and beside it.
"""
