"""The decoder against tshark, packet by packet, over public captures: `python -m tests.corpus FOLDER`."""
