"""GraphQL

A second front door to the same data, with the limits that it needs.
"""
