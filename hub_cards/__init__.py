"""Card templates for what is published on the Hub."""
