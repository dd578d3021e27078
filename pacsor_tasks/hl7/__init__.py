"""HL7 v2: messages, MLLP and acknowledgements."""
