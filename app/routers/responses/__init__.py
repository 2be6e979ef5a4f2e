"""Responses

What leaves the service: JSON, HTML, headers, cookies, redirects.
"""
