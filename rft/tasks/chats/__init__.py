"""Chats as people have them (exports and logs), imported into one history per user."""
