-- True if `append_in` appended in this transaction, not rolled back: it makes this setting local to the transaction.
coalesce(current_setting('eventbus.appended_{namespace}', true) = 'on', false)
