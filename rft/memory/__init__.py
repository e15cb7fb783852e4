"""The agentic memory: a history read chunk by chunk into one readable memory, from which questions are answered."""
