"""MSC in the self-instruct form of MemGPT (arXiv 2310.08560): 500 chats of five sessions, and a question that looks back on each."""
