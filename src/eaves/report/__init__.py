"""What a person looks at: live progress and tables."""
