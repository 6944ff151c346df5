"""How well the reranker orders and grades, measured on real judgments."""
