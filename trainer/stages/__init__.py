"""The training plan: stages in order, each kept only where the dev set says so."""
