"""The student: one end-to-end empathetic speech LLM. A torch library of its own, which never sees its teacher."""
