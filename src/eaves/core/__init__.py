"""What a split net is: stages, exits, roles, specifications. Touches no file and no socket."""
