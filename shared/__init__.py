"""What server, client and auditor have in common."""
