"""The trained agent in use: memories of many users in a store, written by the Manager and read by the Answer Agent."""
