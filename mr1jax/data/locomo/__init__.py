"""LoCoMo (arXiv 2402.17753): ten long conversations and 1,540 questions. The file is CC BY-NC 4.0 and is not shipped."""
