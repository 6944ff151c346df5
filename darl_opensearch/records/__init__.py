"""Items, judgments and traffic: what a line of each must hold, and one reader of them for everything that reads one."""
