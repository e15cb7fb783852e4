"""Texts that an LLM writes: each response is paid for once, and rules and votes check what it writes."""
