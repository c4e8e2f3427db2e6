"""Records in, text out: terminal, Markdown, HTML, GitHub, JUnit properties. Nothing here reads or writes a file."""
