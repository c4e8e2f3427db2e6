"""Parts of the pytest plugin: what it takes, what it shows, how it ends and how tests are handed out."""
