/* SPDX-License-Identifier: Apache-2.0 */
/* What compilers call to copy and clear structures, whatever they are told. */
#include <stddef.h>

void *memcpy(void *to, const void *from, size_t n);
void *memset(void *to, int byte, size_t n);

__attribute__((visibility("hidden"))) void *memcpy(void *to, const void *from, size_t n)
{
	void *at = to;
	__asm__ volatile("rep movsb" : "+D"(at), "+S"(from), "+c"(n) : : "memory");
	return to;
}

__attribute__((visibility("hidden"))) void *memset(void *to, int byte, size_t n)
{
	void *at = to;
	__asm__ volatile("rep stosb" : "+D"(at), "+c"(n) : "a"(byte) : "memory");
	return to;
}
