-- True if `append_in` appended in this transaction, not rolled back: it makes this setting local to the transaction. The
-- value names the schema, as two schemas may have one namespace.
coalesce(current_setting('eventbus.appended_{namespace}', true) = '{schema}', false)
