INSERT INTO {schema}.paused_groups (name) VALUES ($1::text) ON CONFLICT (name) DO NOTHING
