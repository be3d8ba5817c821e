-- Whether the rows of the copies have replaced the live ones: then they are not filled further, but made anew.
ALTER TABLE eventbus_shadows ADD COLUMN has_served INTEGER NOT NULL DEFAULT 0;
