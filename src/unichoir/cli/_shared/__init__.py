"""Parts of commands: options that several commands share, progress bars and output."""
