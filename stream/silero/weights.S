/* The weights of the voice gate's network as constant data of the program: see export.py for their order. */
	.section .rodata
	.balign 64
	.global silero_weights
	.hidden silero_weights
	.type silero_weights, %object
silero_weights:
	.incbin "stream/silero/silero16k.bin"
	.size silero_weights, . - silero_weights

	.section .note.GNU-stack, "", %progbits
