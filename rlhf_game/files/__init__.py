"""Files: games read and checked, receipts written and verified, tables in files of their own. Never a pickle."""
