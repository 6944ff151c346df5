"""``python -m darl_opensearch`` is ``darl``."""

from darl_opensearch.cli import main

main()
