"""Files

Bytes in and out: received without trust, kept without loss, sent without waste.
"""
