"""Pages that are looked at in a browser: one self-contained HTML file each, served on this machine or written."""
