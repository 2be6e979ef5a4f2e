"""The application

The service as a whole: how it starts and stops, fails, and is configured.
"""
