"""Dependencies

What endpoints ask for: values, chains of values, and resources that are closed again.
"""
