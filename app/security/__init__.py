"""Accounts and what they log in with: passwords, access tokens, refresh tokens, and the brake on guessing."""
