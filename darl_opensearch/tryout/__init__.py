"""The try-out page: a query, its first-stage and its reranked order, and why."""
