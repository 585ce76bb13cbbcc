"""What a split net is: stages, exits, roles and specifications. Nothing here touches a file or a socket."""
