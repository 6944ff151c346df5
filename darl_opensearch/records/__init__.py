"""Items, judgments and traffic: required fields, and the readers that all parts share."""
